"""Measurements that the compiler can use: the database, its tasks, and the lookup of a layer."""
