"""The executor for clusters of Google Kubernetes Engine."""
