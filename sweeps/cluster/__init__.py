"""Ray itself: start or join a cluster, token authentication, and ending what a killed driver leaves behind."""
