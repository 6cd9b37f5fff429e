"""HTTP only: parse, call one use case, render.

``application`` puts the routes together, a module a noun; ``problems`` turns every
refusal into its problem document, ``rendering`` records into bodies; ``watcher`` wakes
devices and streams that wait for news. Async lives here and nowhere below.
"""
