//! Links between nodes: streams of stanzas and hand-overs, each with its acknowledgements.
