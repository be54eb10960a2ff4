package h2c

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/mesh/meshtest/onloop"
)

// The service is made by hand: Echo answers with what it is sent, Chat does for each message of a stream.

type service interface {
	echo(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error)
	chat(stream grpc.ServerStream) error
}

var chatDesc = grpc.StreamDesc{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(s any, stream grpc.ServerStream) error {
	return s.(service).chat(stream)
}}

var serviceDesc = grpc.ServiceDesc{
	ServiceName: "shop.Service", HandlerType: (*service)(nil), Streams: []grpc.StreamDesc{chatDesc},
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(s any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return s.(service).echo(ctx, in)
	}}},
}

type shop struct{ began, gone chan struct{} }

func (s *shop) echo(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch {
	case bytes.Equal(in.Value, []byte("fail")):
		return nil, status.Error(codes.NotFound, "no such thing: 100 %")
	case bytes.Equal(in.Value, []byte("wait")):
		close(s.began)
		<-ctx.Done()
		close(s.gone)
		return nil, ctx.Err()
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("seen", fmt.Sprint(md["x-user"])))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("size", fmt.Sprint(len(in.Value))))
	return in, nil
}

func (s *shop) chat(stream grpc.ServerStream) error {
	for {
		m := new(wrapperspb.BytesValue)
		err := stream.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Aborted, "that is all")
		}
		if err == nil {
			err = stream.SendMsg(m)
		}
		if err != nil {
			return err
		}
	}
}

// newShop makes a gRPC server and a client of it through a proxy.
func newShop(t *testing.T) (*grpc.ClientConn, *shop) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{make(chan struct{}), make(chan struct{})}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	srv.RegisterService(&serviceDesc, s)
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(srv.Stop)
	p := newProxy(t, "h2", "h2", listener.Addr().String())
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, s
}

func TestCallsOfGRPC(t *testing.T) {
	conn, _ := newShop(t)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-user", "ann"), onloop.Patience)
	defer cancel()
	for _, size := range []int{0, 10, 100_000, 10 << 20} {
		content := noise(size, 1)
		out := new(wrapperspb.BytesValue)
		var header, trailer metadata.MD
		err := conn.Invoke(ctx, "/shop.Service/Echo", wrapperspb.Bytes(content), out, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || !bytes.Equal(out.Value, content) {
			t.Errorf("of %d bytes %d came back, %v", size, len(out.Value), err)
		}
		if fmt.Sprint(header["seen"], trailer["size"]) != fmt.Sprintf("[[ann]] [%d]", size) {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
	}
	err := conn.Invoke(ctx, "/shop.Service/Echo", wrapperspb.Bytes([]byte("fail")), new(wrapperspb.BytesValue))
	if s, _ := status.FromError(err); s.Code() != codes.NotFound || s.Message() != "no such thing: 100 %" {
		t.Errorf("got %v", err)
	}
	err = conn.Invoke(ctx, "/shop.Service/Nothing", wrapperspb.Bytes(nil), new(wrapperspb.BytesValue))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestCancelledCallsOfGRPCReachTheServer(t *testing.T) {
	conn, s := newShop(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-s.began
		cancel()
	}()
	err := conn.Invoke(ctx, "/shop.Service/Echo", wrapperspb.Bytes([]byte("wait")), new(wrapperspb.BytesValue))
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	select {
	case <-s.gone:
	case <-time.After(onloop.Patience):
		t.Error("the server never hears of it")
	}
}

// A stream whose both sides speak in turns, then one that pours, with more than any window in each direction.
func TestStreamsOfGRPC(t *testing.T) {
	conn, _ := newShop(t)
	ctx, cancel := context.WithTimeout(t.Context(), onloop.Patience)
	defer cancel()
	stream, err := conn.NewStream(ctx, &chatDesc, "/shop.Service/Chat")
	if err != nil {
		t.Fatal(err)
	}
	in := new(wrapperspb.BytesValue)
	for i := range 50 {
		content := noise(1+i*i*20, uint64(i))
		if err := stream.SendMsg(wrapperspb.Bytes(content)); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(in); err != nil || !bytes.Equal(in.Value, content) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	const messages, size = 100, 100_000
	go func() {
		for i := range messages {
			_ = stream.SendMsg(wrapperspb.Bytes(noise(size, uint64(i))))
		}
		_ = stream.CloseSend()
	}()
	for i := range messages {
		if err := stream.RecvMsg(in); err != nil || !bytes.Equal(in.Value, noise(size, uint64(i))) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := stream.RecvMsg(in); status.Code(err) != codes.Aborted {
		t.Errorf("the stream ends with %v", err)
	}
}
