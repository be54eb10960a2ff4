// Package h2 is the state of one HTTP/2 connection (RFC 9113) for either role, without sockets, goroutines or a clock:
// received bytes go in and events come out, calls go in and bytes to send come out.
package h2
