"""Layer tables (YAML) and the code that builds a detector from them on ultralytics, without forking it."""
