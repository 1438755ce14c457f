"""RealmState: one snapshot, one event stream, one way to give orders (contracts A2, A3)."""
