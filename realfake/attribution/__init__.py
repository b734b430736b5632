"""Attribution maps: the evidence for a label by pixel, and tests whether a map is faithful."""

# Defined here, because importing Captum takes over a second.
METHOD_NAMES = (
    "gradcam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "occlusion",
    "kernel_shap",
)
