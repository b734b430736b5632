"""Attribution maps by Captum, and whether they are to be believed: from a model's input to regions of the image."""
