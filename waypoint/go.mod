module github.com/tulle-mesh/tulle/waypoint

go 1.26.0

require (
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/tulle-mesh/tulle/mesh v0.0.0
	go.uber.org/goleak v1.3.0
	golang.org/x/crypto/x509roots/fallback v0.0.0-20261030153154-30a33513ff6d
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/spiffe/go-spiffe/v2 v2.9.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace github.com/tulle-mesh/tulle/mesh => ../mesh
