"""Wire formats: pure functions between the JSON of the hosted services and the domain."""
