package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
)

// answer is what a server says of a request: a line for each field, by the names that the suite looks for.
type answer struct {
	port                     int // that it came in by
	host, url, method, proto string
	client                   net.Addr
	headers                  map[string][]string
}

func (a answer) write(w io.Writer) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "ServicePort=%d\nHost=%s\nURL=%s\nMethod=%s\nProto=%s\n", a.port, a.host, a.url, a.method, a.proto)
	if addr, ok := a.client.(*net.TCPAddr); ok {
		fmt.Fprintf(w, "IP=%s\n", addr.IP)
	}
	for _, key := range slices.Sorted(maps.Keys(a.headers)) {
		for _, value := range a.headers[key] {
			fmt.Fprintf(w, "RequestHeader=%s:%s\n", key, value)
		}
	}
	_, err = fmt.Fprintf(w, "Hostname=%s\n", name)
	return err
}
