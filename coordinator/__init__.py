"""The coordinator: enrols devices, runs rounds, aggregates updates, publishes."""
