module github.com/tulle-mesh/tulle/waypoint

go 1.26.0

replace github.com/tulle-mesh/tulle/mesh => ../mesh
