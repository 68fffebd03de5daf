"""The hub: collects what cameras are unsure about, trains, proves the gain and rolls releases out."""
