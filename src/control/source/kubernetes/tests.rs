//! What each style makes of the objects of a cluster.
