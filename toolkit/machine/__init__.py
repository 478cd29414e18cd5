"""This machine: what it is, what else runs on it, its limits, and is it fit to measure on?"""
