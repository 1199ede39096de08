"""Measurements that the compiler can use: the database, its tasks, and how a layer finds its own."""
