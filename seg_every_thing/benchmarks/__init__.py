"""Measurements as data: time and memory, each in a fresh process."""
