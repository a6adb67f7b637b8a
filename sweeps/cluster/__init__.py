"""Ray itself: starting or joining a cluster, token authentication, and ending the processes of a killed driver."""
