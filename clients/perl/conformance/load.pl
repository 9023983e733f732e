#!/usr/bin/perl
# Receives messages for the load test of the conformance kit: with the client, or with Protocol::WebSocket and a socket alone.
use v5.36;

use FindBin          qw($Bin);
use IO::Handle       ();
use IO::Socket::INET ();
use lib "$Bin/../lib";

use Net::RealizeHit;
use Protocol::WebSocket::Frame             ();
use Protocol::WebSocket::Handshake::Client ();

use constant STEP => 1000;    # messages from one line of the output to the next

my ( $mode, $url, $wanted, $queue ) = @ARGV;
my $count = 0;
STDOUT->autoflush(1);

sub take () {
    ++$count;
    say $count if $count % STEP == 0 || $count == $wanted;
    return;
}

sub client () {
    my $client = Net::RealizeHit::Client->new( $url, queue => $queue );
    $client->subscribe( { kind => 'load' }, on_message => sub { take(); $client->stop if $count == $wanted } );
    say 'ready';
    $client->run;
    $client->close;
    return;
}

sub plain () {
    my $handshake = Protocol::WebSocket::Handshake::Client->new( url => $url );
    my ($address) = $url =~ m{\Aws://([^/]+)};
    my $socket = IO::Socket::INET->new($address) // die $@;
    print {$socket} $handshake->to_string;
    $socket->flush;
    my $bytes = q{};
    while ( !$handshake->is_done ) {
        sysread $socket, $bytes, 65_536, length $bytes;
        $handshake->parse($bytes) // die $handshake->error;
    }
    print {$socket}
        Protocol::WebSocket::Frame->new( buffer => '{"id":"1","act":"sub","pat":{"kind":"load"}}', masked => 1 )->to_bytes;
    $socket->flush;
    my $frame = Protocol::WebSocket::Frame->new($bytes);
    while ( $count < $wanted ) {
        while ( defined( my $message = $frame->next ) ) {
            if ( $message =~ /\A\{/ ) { say 'ready' }
            else                      { take() }
        }
        last if $count >= $wanted;
        sysread $socket, $bytes, 65_536 or die 'the connection is lost';
        $frame->append($bytes);
    }
    return;
}

$mode eq 'client' ? client() : plain();
exit 0;
