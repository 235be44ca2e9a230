"""Learners: architectures only. Any Keras model over the embedded fields is one too."""

from gmeta_tf.models.dlrm import DLRM, MamlDLRM
from gmeta_tf.models.factors import Factors
from gmeta_tf.models.melu import MeLU

__all__ = ["DLRM", "Factors", "MamlDLRM", "MeLU"]
