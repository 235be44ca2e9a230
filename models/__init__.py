"""Learners: architectures only. Any Keras model over the embedded fields is one too."""

from gmeta_tf.models.cbml import CBML
from gmeta_tf.models.dlrm import DLRM, MamlDLRM
from gmeta_tf.models.factors import Factors
from gmeta_tf.models.heads import Heads
from gmeta_tf.models.melu import MeLU
from gmeta_tf.models.mmaml import MMAML
from gmeta_tf.models.support_encoder import SupportEncoder

__all__ = ["CBML", "DLRM", "MMAML", "Factors", "Heads", "MamlDLRM", "MeLU", "SupportEncoder"]
