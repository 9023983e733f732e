package Scripted;

# Servers for the tests, each in a process of its own: a function gets the sockets of what connects, one after another.
use v5.36;

use IO::Handle       ();
use IO::Socket::INET ();
use Scripted::Peer   ();

our $VERSION = '0.1.0';

# Starts a server. Options: `tls`, a reference to a hash for IO::Socket::SSL.
sub start ( $class, $serve, %options ) {
    my $listener = IO::Socket::INET->new( LocalAddr => '127.0.0.1', Listen => 16, ReuseAddr => 1 )
        or die "no socket: $@\n";
    pipe my $reader, my $writer or die "no pipe: $!\n";
    my $pid = fork // die "no fork: $!\n";
    if ( !$pid ) {
        close $reader or die "close: $!\n";
        $writer->autoflush(1);
        my $number = 0;
        while ( my $socket = $listener->accept ) {
            $number++;
            if ( $options{tls} ) {
                IO::Socket::SSL->start_SSL( $socket, SSL_server => 1, %{ $options{tls} } ) or next;
            }
            my $peer = bless { socket => $socket, in => q{}, number => $number, log => $writer }, 'Scripted::Peer';
            eval { $serve->($peer); 1 } or $peer->note("died: $@");
            close $socket;
        }
        require POSIX;
        POSIX::_exit(0);
    }
    close $writer or die "close: $!\n";
    my $port = $listener->sockport;
    close $listener or die "close: $!\n";
    return bless { pid => $pid, port => $port, reader => $reader, owner => $$ }, $class;
}

sub port ($self) { return $self->{port} }

# The next line that the server noted; it waits for it.
sub noted ($self) {
    my $line = readline( $self->{reader} ) // return;
    chomp $line;
    return $line;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ( $?, $! ) = ( 0, 0 );
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

1;
