//! Models of what is shared, for the model checker.
