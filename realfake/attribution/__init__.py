"""Attribution maps: which parts of an image speak for a label, and whether a map is faithful."""

# The names of the methods, without the import of Captum, which takes over a second.
METHOD_NAMES = (
    "gradcam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "occlusion",
    "kernel_shap",
)
