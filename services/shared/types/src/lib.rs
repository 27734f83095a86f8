//! Values that every part shares: identities, names, recipes, error codes, limits. No I/O, no async.
