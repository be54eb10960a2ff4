package main

import (
	"context"
	"net"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The one method of ratings: the id of a book → stars by reviewer. Its messages are protobuf's own, so there is nothing to generate.
const ofBook = "/bookinfo.Ratings/OfBook"

// ratings serves gRPC, and gets stars by TCP.
func ratings(ctx context.Context, l net.Listener, c config) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<10), grpc.ConnectionTimeout(patience))
	handler := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var id wrapperspb.StringValue
		if err := decode(&id); err != nil {
			return nil, err
		}
		found, err := askStars(ctx, c.Stars, id.Value)
		if err != nil {
			return nil, status.Errorf(codes.Unavailable, "the database says nothing: %v", err)
		}
		return structpb.NewStruct(map[string]any{"Reviewer1": found[0], "Reviewer2": found[1]})
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bookinfo.Ratings", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "OfBook", Handler: handler}},
	}, nil)
	context.AfterFunc(ctx, server.Stop)
	return server.Serve(l)
}

// askRatings calls that method. Each call has a connection of its own, so that a mesh may decide anew where it goes.
func askRatings(r *http.Request, addr, id string) (map[string]int, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := within(r.Context())
	defer cancel()
	for _, name := range passed {
		if value := r.Header.Get(name); value != "" && name != "User-Agent" {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
		}
	}
	var found structpb.Struct
	if err := conn.Invoke(ctx, ofBook, wrapperspb.String(id), &found); err != nil {
		return nil, err
	}
	stars := map[string]int{}
	for reviewer, value := range found.Fields {
		stars[reviewer] = int(value.GetNumberValue())
	}
	return stars, nil
}
