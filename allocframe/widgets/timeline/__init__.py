"""The interactive timeline: a widget for notebooks, and a fragment of HTML for pages without a network."""
