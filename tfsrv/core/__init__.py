"""Servables, versions and the manager that keeps them alive; knows neither TensorFlow nor networks."""
