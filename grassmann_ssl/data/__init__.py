"""Sources, views and population moments: everything that happens before the encoder."""

from grassmann_ssl.data.array_files import load_array, load_column
from grassmann_ssl.data.augment import Augmentation, keyed_generator
from grassmann_ssl.data.files import DataOptions, arrays, load
from grassmann_ssl.data.images import Images, bundled
from grassmann_ssl.data.moments import Moments, cross_moment, moments_of
from grassmann_ssl.data.pictures import image_folder
from grassmann_ssl.data.presets import preset
from grassmann_ssl.data.sources import SOURCES, digits, extent_bias_pairs, gaussian_pairs, photos, triplets
from grassmann_ssl.data.views import Triplets, View, make_triplets

__all__ = [
    "SOURCES",
    "Augmentation",
    "DataOptions",
    "Images",
    "Moments",
    "Triplets",
    "View",
    "arrays",
    "bundled",
    "cross_moment",
    "digits",
    "extent_bias_pairs",
    "gaussian_pairs",
    "image_folder",
    "keyed_generator",
    "load",
    "load_array",
    "load_column",
    "make_triplets",
    "moments_of",
    "photos",
    "preset",
    "triplets",
]
