"""Four questions, each with a command, two result files in docs/benchmarks and an end.

rules         how many tokens does each rule emit on the same drafts?
prediction    does the theory say what the engine does?
never_slower  is the automatic budget ever slower than plain decoding?
verification  what do warping and rule cost at large vocabularies?

    python -m experiments.rules --quick        # from the root of a checkout; --help lists the options

The benchmark against other decoders is `draftgraph bench`.
"""
