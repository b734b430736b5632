"""Image classifiers of transformers: opened, built and taken apart, and the arithmetic of their
processors.
"""
