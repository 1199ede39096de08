"""Relax functions as data: read and write bindings, and prove facts about values (domains, shifts, quantisers)."""
