module github.com/tulle-mesh/tulle/waypoint

go 1.26.0

require github.com/tulle-mesh/tulle/mesh v0.0.0

replace github.com/tulle-mesh/tulle/mesh => ../mesh
