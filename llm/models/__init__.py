"""Language models: loading, building, kinds of actor, sharding; no sampling and no losses."""
