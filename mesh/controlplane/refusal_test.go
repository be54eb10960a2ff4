package controlplane

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestARefusedTokenIsNamedWithTheRemedy(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var answer atomic.Uint32
	answer.Store(uint32(codes.Unauthenticated))
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.Code(answer.Load()), "authentication failure")
	}))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { server.Stop(); <-served }()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{file: "is in " + file, "eyJh.eyJp": "is given literally", "": "is missing"} {
		for kind, call := range map[string]func(*grpc.ClientConn) error{"call": callOnce, "stream": callStream} {
			err := withRefusal(t, listener.Addr().String(), token, call)
			if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "authentication failure") {
				t.Errorf("%s with token %q: %v, want %q", kind, token, err, want)
			}
			if strings.Contains(err.Error(), "eyJh") {
				t.Errorf("%s shows the token: %v", kind, err)
			}
		}
	}
	answer.Store(uint32(codes.Unavailable))
	if err := withRefusal(t, listener.Addr().String(), file, callOnce); strings.Contains(err.Error(), "token") {
		t.Errorf("another error speaks of the token: %v", err)
	}
}

func withRefusal(t *testing.T, addr, token string, call func(*grpc.ClientConn) error) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(refusal{token}.unary), grpc.WithStreamInterceptor(refusal{token}.stream))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return call(conn)
}

func callOnce(conn *grpc.ClientConn) error {
	return conn.Invoke(context.Background(), "/x/y", &emptypb.Empty{}, &emptypb.Empty{})
}

func callStream(conn *grpc.ClientConn) error {
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/x/y")
	if err != nil {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}
