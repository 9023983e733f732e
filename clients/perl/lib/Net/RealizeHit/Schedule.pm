package Net::RealizeHit::Schedule;

use v5.36;

use List::Util  qw(min);
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

our $VERSION = '0.1.0';

use constant CALL_TIME => 0.05;    # seconds that calls get before the socket is looked at again

sub now () { return clock_gettime(CLOCK_MONOTONIC) }

sub new ($class) { return bless { calls => [], timers => {}, number => 0 }, $class }

# A call of a function of the program, in the order of what happened.
sub later ( $self, $call ) { push @{ $self->{calls} }, $call; return }

sub has_calls ($self) { return scalar @{ $self->{calls} } }

# Makes the calls that wait, until the end of the time for that. A function that dies is warned of.
sub call_some ( $self, $end = now() + CALL_TIME ) {
    while ( my $call = shift @{ $self->{calls} } ) {
        if ( !eval { $call->(); 1 } ) {
            my $error = $@;
            warn "Net::RealizeHit: a callback died: $error\n";
        }
        last if now() > $end;
    }
    return;
}

sub call_all ($self) {
    $self->call_some while $self->has_calls;
    return;
}

# Calls a function of this distribution after so many seconds. Returns a name for `cancel`.
sub timer ( $self, $seconds, $call ) {
    my $name = ++$self->{number};
    $self->{timers}{$name} = { at => now() + $seconds, call => $call };
    return $name;
}

sub cancel ( $self, $name ) {
    delete $self->{timers}{$name} if defined $name;
    return;
}

sub cancel_all ($self) { $self->{timers} = {}; return }

# When the first timer is due; undef if there is none.
sub next_at ($self) { return min( map { $_->{at} } values %{ $self->{timers} } ) }

sub run_timers ($self) {
    return if !%{ $self->{timers} };
    my $now = now();
    my @due = sort { $a->[0] <=> $b->[0] } map { [ $self->{timers}{$_}{at}, $_ ] } keys %{ $self->{timers} };
    for my $each ( grep { $_->[0] <= $now } @due ) {
        my $timer = delete $self->{timers}{ $each->[1] } // next;
        $timer->{call}->();
    }
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Schedule - what a client will call: functions of the program, and timers

=head1 DESCRIPTION

Internal to L<Net::RealizeHit::Client>.

=head1 METHODS

=head2 new

Makes an empty one.

=head2 now

A function: the monotonic clock in seconds.

=head2 later

Adds a call of a function of the program.

=head2 has_calls

How many of these calls wait.

=head2 call_some

Makes the calls that wait, for 50 ms or until a given time.

=head2 call_all

Makes all of them.

=head2 timer

Calls a function after so many seconds. Returns a name for C<cancel>.

=head2 cancel

Takes a timer back.

=head2 cancel_all

Takes all timers back.

=head2 next_at

When the first timer is due.

=head2 run_timers

Calls what is due.

=cut
