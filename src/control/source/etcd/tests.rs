//! What is made of etcd's keys, whatever they hold, and which subnet a node takes.
