package Net::RealizeHit::Subscription;

use v5.36;

use Net::RealizeHit::Schedule ();
use Scalar::Util              qw(weaken);

our $VERSION = '0.1.0';

sub new ( $class, %fields ) {
    my $self = bless {
        state   => 'subscribing',
        waiting => [],
        dropped => 0,
        untold  => 0,
        ended   => 0,
        %fields,
    }, $class;
    weaken $self->{client};    # the client holds its subscriptions
    return $self;
}

sub pattern ($self) { return $self->{pattern} }
sub id      ($self) { return $self->{topic}{id} }
sub state   ($self) { return $self->{state} }              ## no critic (ProhibitBuiltinHomonyms)
sub dropped ($self) { return $self->{dropped} }
sub ended   ($self) { return $self->{ended} && !@{ $self->{waiting} } ? 1 : 0 }
sub error   ($self) { return $self->{error} }

sub next ( $self, $timeout = undef ) {    ## no critic (ProhibitBuiltinHomonyms)
    my $deadline = defined $timeout ? Net::RealizeHit::Schedule::now() + $timeout : undef;
    $self->{reading}++;
    my $message = eval {
        while ( !@{ $self->{waiting} } && !$self->{ended} ) {
            my $client = $self->{client} or last;
            last if !$client->_turn_or_wait( $deadline, $self );
        }
        $self->poll;
    };
    my $error = $@;
    $self->{reading}--;
    die $error if ref $error || $error ne q{};
    return $message;
}

sub poll ($self) {
    if ( my $message = shift @{ $self->{waiting} } ) {
        $self->_tell_dropped if $self->{untold};
        return $message;
    }
    die $self->{error} if $self->{ended} && $self->{error};
    return;
}

sub unsubscribe ( $self, %options ) {
    my $client = $self->{client} or return;
    return $client->_unsubscribe( $self, %options );
}

# What follows is for the client.

# Queues a message and drops the oldest one if there is no room.
sub _put ( $self, $message ) {
    return if $self->{ended};
    my $waiting = $self->{waiting};
    push @{$waiting}, $message;
    if ( @{$waiting} > $self->{queue} ) {
        shift @{$waiting};
        $self->{dropped}++;
        $self->{untold}++;

        # The first one is told at once, then not each.
        $self->_tell_dropped if $self->{dropped} == 1 || $self->{untold} >= $self->{queue};
        return;    # a call for the dropped message is waiting
    }
    if ( $self->{on_message} ) {
        my $weak = $self;
        weaken($weak);
        $self->{call_message} //= sub { $weak->_call_message if $weak };
        $self->{client}->_later( $self->{call_message} );
    }
    return;
}

sub _call_message ($self) {
    my $message = shift @{ $self->{waiting} } // return;
    $self->_tell_dropped if $self->{untold};
    $self->{on_message}->( $message, $self );
    return;
}

sub _tell_dropped ($self) {
    my $count = $self->{untold};
    $self->{untold} = 0;
    $self->_tell( on_gap => { dropped => $count } );
    return;
}

sub _gap ( $self, $seconds ) { return $self->_tell( on_gap => { seconds => $seconds } ) }

sub _move ( $self, $state ) {
    return if $self->{state} eq $state || $self->{state} eq 'unsubscribed';
    $self->{state} = $state;
    return $self->_tell( on_state => $state );
}

sub _in_force ( $self, $recovered ) {
    $self->_move('subscribed');
    my $away = delete $self->{away} // return;
    return $self->_tell('on_recovered') if $recovered;
    return $self->_gap( Net::RealizeHit::Schedule::now() - $away );
}

sub _interrupted ( $self, $since ) {
    return if $self->{state} ne 'subscribed';
    $self->{away} //= $since;
    return $self->_move('subscribing');
}

sub _end ( $self, $error ) {
    return if $self->{ended};
    $self->{ended}   = 1;
    $self->{error}   = $error;
    $self->{waiting} = [] if !$error;
    return;
}

sub _finish ( $self, $error ) {
    $self->_end($error);
    $self->_move('unsubscribed');
    $self->_tell( on_error => $error ) if $error;
    return;
}

sub _tell ( $self, $name, @values ) {
    my $call   = $self->{$name}   // return;
    my $client = $self->{client} // return;
    $client->_later( sub { $call->( @values, $self ) } );
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Subscription - what a client subscribed to

=head1 SYNOPSIS

    while ( my $message = $subscription->next ) {
        say $message->text;
    }

=head1 DESCRIPTION

L<Net::RealizeHit::Client/subscribe> makes subscriptions. They work while their client exists.

Messages wait in a queue (1,024 unless the program says otherwise). When it is full, the oldest are dropped and counted,
and a gap is told.

=head1 METHODS

=head2 next

    my $message = $subscription->next;
    my $message = $subscription->next($seconds);

The next L<message|Net::RealizeHit::Message>. It waits, for so many seconds at most, and meanwhile the client works.
Returns C<undef> after that time and when the subscription has ended, which C<ended> tells apart. Dies with the
L<error|Net::RealizeHit::Error> that ended the subscription.

=head2 poll

The next message if it has come, without waiting; otherwise C<undef>. Dies as C<next> does.

=head2 unsubscribe

    $subscription->unsubscribe;
    $subscription->unsubscribe( wait => 0, on_done => sub ($error) { ... } );

Ends the subscription and waits until the server has confirmed it. With C<< wait => 0 >> it returns at once. Messages that
wait are thrown away.

=head2 state

C<subscribing> (also while the connection is lost), C<subscribed>, C<unsubscribing> or C<unsubscribed>.

=head2 ended

Whether nothing more comes.

=head2 error

The error that ended the subscription; C<undef> while it has not ended, and after C<unsubscribe> and C<close>.

=head2 dropped

How many messages were lost because the queue was full.

=head2 id

The pattern's label on the wire; C<undef> while the subscription is not in force.

=head2 pattern

The pattern as it was given.

=head2 new

Used by L<Net::RealizeHit::Client>.

=cut
