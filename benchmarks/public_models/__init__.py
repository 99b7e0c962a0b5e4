"""What LNB finds in networks that others published, and how they train: `make public-models`.

Nothing of those libraries is copied here. A model is built by its library's own code, from an installed package or from
a checkout of its repository, at a size that two CPU cores can train.
"""
