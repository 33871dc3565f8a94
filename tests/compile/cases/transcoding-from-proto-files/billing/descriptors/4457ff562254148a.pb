
â
hello.protodemo.v1""
HelloRequest
name (	Rname" 

HelloReply
text (	Rtext2>
Greeter3
Hello.demo.v1.HelloRequest.demo.v1.HelloReply2<
Other3
Hello.demo.v1.HelloRequest.demo.v1.HelloReplybproto3