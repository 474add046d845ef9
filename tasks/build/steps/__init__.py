"""The steps of a build, one module each: what goes in, what comes out, and the rule by which."""
