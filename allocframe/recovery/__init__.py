"""History that Nomad's servers still hold and no API shows: Raft logs, states and debug bundles."""
