//! Examples, each with the behaviour as its name.
