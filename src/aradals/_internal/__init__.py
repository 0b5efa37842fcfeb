"""Tools that are not part of the method: files, code by name, optional packages."""
