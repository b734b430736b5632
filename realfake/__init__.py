"""realfake: tells photographs from AI-generated images, with numbers that can be trusted."""

__version__ = "0.1.0"
__all__ = ["Detector", "Explanation", "Prediction"]


def __getattr__(name: str):
    # torch and transformers take seconds to import; metrics and labels must not wait for them.
    if name in __all__:
        from realfake import detector, prediction

        return getattr(detector if name == "Detector" else prediction, name)
    raise AttributeError(f"module 'realfake' has no attribute {name!r}")
