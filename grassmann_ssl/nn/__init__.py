"""Constrained layers, encoders, projection heads, predictors, EMA teachers and averages, random features, and the neural tangent kernel."""

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences
from grassmann_ssl.nn.averages import AveragedModel
from grassmann_ssl.nn.constrain import GrassmannLinear, constrain, constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.departure import departure
from grassmann_ssl.nn.encoders import encoder
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear, feature_lag, feature_orthonormal
from grassmann_ssl.nn.features import RandomFeatures
from grassmann_ssl.nn.heads import projector
from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.nn.ntk import empirical_ntk
from grassmann_ssl.nn.placement import constrain_model
from grassmann_ssl.nn.predictors import DirectPredictor, predictor
from grassmann_ssl.nn.resnet import ResNet
from grassmann_ssl.nn.teacher import Teacher, cosine_momentum

__all__ = [
    "CONSTRAINTS",
    "AveragedModel",
    "DirectPredictor",
    "FeatureOrthonormalLinear",
    "GrassmannLinear",
    "JointEmbedding",
    "RandomFeatures",
    "ResNet",
    "Teacher",
    "constrain",
    "constrain_model",
    "constraints",
    "cosine_momentum",
    "departure",
    "empirical_ntk",
    "encoder",
    "feature_lag",
    "feature_orthonormal",
    "predictor",
    "projector",
]
