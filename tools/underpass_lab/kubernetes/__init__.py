"""A real Kubernetes cluster for tests: etcd, API server, controllers, scheduler, and nodes with containerd and kubelet,
each node in namespaces of its own. `scripts/kubernetes` is its command, `cluster.Cluster` what tests use."""
