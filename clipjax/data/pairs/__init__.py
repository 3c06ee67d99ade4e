"""Data sets of image pairs with known geometry: two views of a scene, or two objects of a class."""
