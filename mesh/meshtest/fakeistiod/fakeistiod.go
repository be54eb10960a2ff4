// Package fakeistiod is a control plane for tests: a real gRPC server with delta xDS and the certificate service, in
// the test's process.
package fakeistiod
