//! External components (XEP-0114), accept side.
