"""Use a model that was promoted: a predictor, predictions of whole files, the check before a promotion.

Light to import: torch and onnxruntime are loaded with the first model that needs them.
"""

from __future__ import annotations

from automl.serving.predictor import Predictor, load_model, open_model

__all__ = ["Predictor", "load_model", "open_model"]
