"""Attribution maps by Captum, and whether they are to be believed: from a model's input to regions of the image."""

# The methods by name, for those who only name them: Captum takes over a second to import.
METHOD_NAMES = (
    "gradcam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "occlusion",
    "kernel_shap",
)
