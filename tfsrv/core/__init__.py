"""Servables, versions and the manager that keeps them alive.

Knows neither TensorFlow nor networks.
"""
